"""What a study is, its file, its folder, and its command lines."""
