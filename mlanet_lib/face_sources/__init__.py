"""Where face models come from: `ict` builds the default model, `bfm2009` converts BFM 2009, `london` reads the
portraits that skin is learned from."""
