"""mergekit recipes: fuse experts into the base and into one model."""
