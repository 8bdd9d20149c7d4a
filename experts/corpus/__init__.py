"""What experts.corpora is made of; one YAML beside the modules for each corpus that is known by name."""
