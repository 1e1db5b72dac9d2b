"""FlexGen: keys and values of each token in four bits."""
