"""Taking a trained model away: merged weights, GGUF files, and the proof that they still agree."""
