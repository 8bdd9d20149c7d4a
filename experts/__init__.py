"""One expert model per corpus."""
