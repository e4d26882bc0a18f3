"""Long runs that must end as they began: nothing leaks, nothing mixes, nothing depends on luck."""
