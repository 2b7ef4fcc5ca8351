"""From a labelled data set and a detector to figures with intervals, tables, and a report."""
