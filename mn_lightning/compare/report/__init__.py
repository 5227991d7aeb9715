"""The results of a study: numbers, tables, sentences and pictures."""
