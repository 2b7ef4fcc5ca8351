"""A DICOM node: images in by C-STORE, scored when their study is complete, results out into the same study.

| module | says |
|---|---|
| `instances` | what is asked of one that arrives, and why it is refused |
| `store` | where everything lies, whole and durable, and what became of it |
| `receiving` | who may send, and which status answers what |
| `scoring` | the one pipeline, its models kept between studies |
| `sending` | results to another node by C-STORE, or to a server by STOW-RS |
| `working` | when a study is complete, and what is done then |
| `status` | what is where, for a reader |
| `exchange` | without a network: images in one folder, results in another |

For administrators: docs/node.md, docs/process.md.
"""
