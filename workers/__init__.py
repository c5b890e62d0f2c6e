"""Worker processes: settings, stores, activities, and the workers that run them."""
