"""A small English-like world: words, sentences and documents about it, and labelled tasks of the same making."""
