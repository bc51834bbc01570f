"""Files to files: schemas, store, stages, executors, run, report, command line."""
