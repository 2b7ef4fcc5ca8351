"""``report.html``: a run's studies, ranked, with their slices to page through; no server and no network is needed."""
