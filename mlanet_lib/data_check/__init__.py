"""`mlanet data check`: what is broken in the data, and whether training and benchmark share photos.

`layouts` finds data sets below a folder, `inventory` goes through their samples, `check` judges them, `overlap`
compares faces between sets, `verdict` puts the result into words.
"""
