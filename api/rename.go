package api

import "github.com/weftnet/weft/fabric"

// Rename asks for another name of a switch.
type Rename struct {
	To fabric.SwitchID `json:"to" doc:"The new name"`
}
