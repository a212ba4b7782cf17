#pragma once

#include "ops/descriptor.h"
