"""What is done to texts: normal forms, languages, sentences, duplicates, rules."""
