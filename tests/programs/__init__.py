"""Programs that tests run as processes of their own, to be killed, frozen and counted."""
