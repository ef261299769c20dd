"""How what Tidemill stands on is put in place; nothing here is part of the package."""
