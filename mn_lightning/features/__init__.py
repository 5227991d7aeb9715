"""From images to the statistics that generative models are compared by; knows nothing of a Trainer."""
