"""The Fréchet distance between real and generated images, without Lightning."""
