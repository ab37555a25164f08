"""What a person looks at: `charts`, `curves` and `figures` are plots, `viewer`, `widgets`, `studio` and `live` are
interactive, `gallery` shows a trained network at work, `report` is the HTML report."""
