"""The front door: one address that speaks OpenAI's API, in front of every InferenceService."""
