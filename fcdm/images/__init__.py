"""Images as people have them: folders of any layout, .npz and .npy; one door for all (`fcdm.images.open_images`)."""
