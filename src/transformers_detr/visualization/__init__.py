"""Drawing on images, fonts, and the HTML page that reports share."""
