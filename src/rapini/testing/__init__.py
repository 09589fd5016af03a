"""What users test their own programs with; Rapini's own tests use it too."""
