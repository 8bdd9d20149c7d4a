"""SFT, then DPO."""
