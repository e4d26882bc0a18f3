"""What users of other caches reported, each thread as a test that fails where it happens here."""
