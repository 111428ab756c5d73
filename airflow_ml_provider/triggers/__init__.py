"""What the triggerer watches: tables, model aliases, announcements of drift."""
