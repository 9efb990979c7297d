-- What is installed in an image, as it was read when the image was made; of images from before nobody knows.
ALTER TABLE images ADD COLUMN packages TEXT;
