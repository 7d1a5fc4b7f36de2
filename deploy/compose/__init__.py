"""What the images and docker-compose.yml need besides the code that the local stack uses too."""
