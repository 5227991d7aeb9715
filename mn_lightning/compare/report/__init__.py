"""What a study has shown: numbers, tables, sentences and pictures."""
