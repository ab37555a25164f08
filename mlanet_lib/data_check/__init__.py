"""`mlanet data check`: what is broken in the data, and whether training and benchmark share photos."""
