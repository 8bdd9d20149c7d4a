"""Flawed answers: which rows get them, how rules make them, what is proven of them."""
