"""Several ranks that share one model choose what one process chooses."""
