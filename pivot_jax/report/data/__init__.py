"""The data of a config on one page, before training: rows as the model reads them, lengths, padding, bad rows."""
