"""What models are trained on: bundled digits and stores of latents."""
