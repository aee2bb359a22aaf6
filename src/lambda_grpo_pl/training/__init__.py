"""What has a gradient: the LightningModule, one optimizer update, and how both spread over ranks."""
