"""What tests share: builders of valid objects, and real servers."""
