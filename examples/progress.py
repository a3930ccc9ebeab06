import time

for step in range(1, 6):
    print(f"step {step} of 5")
    time.sleep(1)
