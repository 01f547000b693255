"""What a browser shows: the live page of `trustee ui`, and the report of `trustee report`."""
