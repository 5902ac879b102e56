"""Every row in one state, the best or a drawn one, where EM shares it out."""
