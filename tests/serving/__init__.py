"""The servers of examples/serving: nothing accepted is lost, whatever is killed."""
