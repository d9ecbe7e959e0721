"""Training students: small query encoders that put texts where a teacher puts them (LEAF, arXiv 2509.12539)."""
