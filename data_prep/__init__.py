"""From original sources to BMAD's folders: ``python -m data_prep --help``."""
