"""Training encoders that can be cut to fewer layers and dimensions: Starbucks, 2DMSE and SMAE pre-training."""
