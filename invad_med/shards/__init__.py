"""An archive in shards: an index of headers, workers that score shards and commit them, one table and a worklist.

| file in the working folder | what it is |
|---|---|
| ``index.parquet`` | a row for each slice, and for each file that cannot be read; a row group for each shard |
| ``secret`` | what digests of UIDs are mixed with |
| ``settings.json`` | what the scores depend on, as the first run had it |
| ``scores/shard-000012.parquet`` | the rows of a shard: it is scored when this file is there |
| ``results/shard-000012/maps/`` | its maps, on disk before that file |
| ``state/shard-000012.lease``, ``.ended`` | who scores it now; which sources processes had in hand that ended over it |
"""
