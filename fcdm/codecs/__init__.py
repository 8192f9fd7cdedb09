"""Image codecs: from pixels to the latents that models are trained on, and back."""
