"""Synthetic faces with all labels: `faces` samples and draws them, `scenes` makes background, hair and occluders,
`stand_ins` writes benchmark sets in the published layouts, `workers` draws in several processes."""
