"""What the reproductions on encoders share: arms of equal steps, and cuts of sets of images and sound."""
