"""The stages `validate` and `prepare` on Spark, for logs that do not fit into one machine's memory: docs/scale.md."""
