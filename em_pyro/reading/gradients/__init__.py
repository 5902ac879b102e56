"""What gradients say of the sites: whether arguments have those of their maps, and which parameters they miss."""
