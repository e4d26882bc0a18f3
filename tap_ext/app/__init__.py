"""A page that makes each picture twice, untouched and accelerated, and shows the difference."""
