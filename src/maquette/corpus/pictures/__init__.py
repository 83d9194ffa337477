"""Pictures with captions and labels: files in, arrays out; or a world that draws them."""
