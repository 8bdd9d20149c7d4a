"""Prompts in, texts and log-likelihoods out."""
